"""What a stage of training is made of: its job and its workers."""
