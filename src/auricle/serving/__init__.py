"""Pages for people, served from this machine. Gradio is imported only when one is asked for."""
