"""Networks for devices: as ONNX files, what they cost there, and the largest one within a budget."""
