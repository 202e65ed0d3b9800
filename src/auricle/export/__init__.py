"""Export models as ONNX graphs with their front end inside, checked against PyTorch on real clips."""
