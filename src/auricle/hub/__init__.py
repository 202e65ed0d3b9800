"""What goes to the Hugging Face Hub: the model card, and what of a run folder may leave the machine."""
