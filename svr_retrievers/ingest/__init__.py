"""From sources to stored chunks: read, cut, embed, write, and go on where the last run stopped."""
