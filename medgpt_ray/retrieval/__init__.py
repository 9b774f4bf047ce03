"""Finding passages of the user's own documents. No Ray, no vLLM.

A folder becomes one SQLite file (`build`), which is searched by BM25 and by meaning (`index`);
`augment` puts what was found, numbered, into a chat.
"""
