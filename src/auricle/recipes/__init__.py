"""The recipes that come with auricle."""
