"""The command of the transfer study: its options, its axis, its rates, and what is trained from them."""
