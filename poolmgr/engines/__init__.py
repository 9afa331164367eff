"""One adapter per engine: launch arguments, identity, requests and readers. Data in, data out."""
