"""`medgpt board`: a web page of the runs, their samples, a chat, and a form that starts a run."""
