"""Model families: one file each, found by its name; each exports Options, Config, Model and configure."""
