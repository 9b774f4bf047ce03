"""From files to token ids: reading, checking and rendering what a run trains on. No ray, no torch.

Every reader reports all bad rows of a file at once, as `file:line: field: what, the fix`.
"""
