"""orchd's contact with the world: routes, pool links, the stream relay, the scrape page.

Decisions are asked of orchd.core; bytes of tokens never pass through it.
"""
