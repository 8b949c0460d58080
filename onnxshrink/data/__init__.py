"""What users have their samples in: arrays, images, tables, text, sound, or a function of theirs."""
