"""What answers from a pack, on NumPy and `tokenizers` alone.

Nothing here may import more of the package than `reading/passage_spans.py`,
`text/answers.py` and `runtime/files.py`: these are all that a minimal runtime
has (`launch/minimal.py`).
"""
