"""Build an artifact from a killed run, or an ONNX file from an artifact.

python scripts/export.py run=outputs/2026-11-26/18-40-12 artifact_dir=model
python scripts/export.py artifact_dir=model format=onnx output=model.onnx
"""

from kforecast.commands.export import main

if __name__ == "__main__":
    main()
