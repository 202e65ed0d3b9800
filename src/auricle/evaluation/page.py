"""stub to be replaced"""


def write_page(path, report, cost, store, positions):  # type: ignore
    path.write_text("<html></html>")
