"""The model hub: search it, say what a repository holds, fetch files from it so that every byte is fetched once.

Names, tokens, metadata and the cache's layout are huggingface_hub's, so that other programs see what was fetched;
the bytes are fetched by our own ranged, resumable download. `client.py` is the only place that opens sockets.

For front ends: `search.search`, `repository.files_of` and `open_repository`, `plan.plan_download`, `download.download`
(a job), `remote.remote_headers`.
"""
