"""Model families. One module or package each: its name is the recipe's `model.family`, its contract is in
`registration`.
"""
