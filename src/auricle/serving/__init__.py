"""The HTTP service of a model and its web page. Gradio is imported only where a page is served."""
