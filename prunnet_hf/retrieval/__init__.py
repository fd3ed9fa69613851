"""Search one gallery with many subnetworks, and measure what comes back."""
