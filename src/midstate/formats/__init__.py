"""Files that others can read, made of a finished network: what each holds, as bytes, checked by reading it back."""
