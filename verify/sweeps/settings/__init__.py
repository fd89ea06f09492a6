"""Settings of studies, each a prescription of `derive`: along the width, depth or batch, or one rate everywhere."""
