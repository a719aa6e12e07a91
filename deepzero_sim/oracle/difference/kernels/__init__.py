"""Fast convolutions of differences; nothing above knows how they are computed."""
