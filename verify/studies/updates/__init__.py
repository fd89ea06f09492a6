"""The update sizes of every optimizer, predicted and measured."""
