"""A static web page that runs subnetworks in the visitor's browser and searches a gallery that was embedded before."""
