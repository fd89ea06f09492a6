"""The zoo's table: what is answered for every model, by hand, by the engine and as measured."""
