"""The viewer: a study's chains in a browser, from a local server or in one file.

| file | contents |
|---|---|
| `links` | the address of a chain, of one of its tokens, of a selection |
| `chain_table` | one row per chain, as the page filters it |
| `text_index` | full-text search, in a file of its own in the cache folder |
| `chain_view` | one chain: text by token, marks, forks |
| `token_numbers` | probability, entropy, Block Influence and KL per token, by replay |
| `viewed_study` | the open study: what the pages ask for |
| `local_server` | the server (127.0.0.1, GET only) |
| `single_file` | a selection as one HTML file |
| `assets/` | the page, without a build step; filters and marks hits itself, on both sides |

docs/viewer.md describes it for users.
"""
