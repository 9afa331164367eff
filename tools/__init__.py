"""What builds, checks and shows the project. Nothing here is part of the product."""
