"""What tests share: published numbers, models, browsers, programs run as processes."""
