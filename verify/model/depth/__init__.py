"""The user's own model along depth: sums whose number of terms grows, and what their branches ask of every rate."""
