"""The trained model in people's hands: photos, videos, ONNX files and the mark of origin. `uniface.load` opens it."""
