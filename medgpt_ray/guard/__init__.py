"""The safety guard of served answers: medical notices (`notices`) and masked logs (`personal`).

It sees words, not medicine: it adds to an answer and never takes away.
"""
