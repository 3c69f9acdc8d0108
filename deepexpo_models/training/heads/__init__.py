"""Parts of train_heads: what one step is shown, and what it must find."""
