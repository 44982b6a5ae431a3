"""Filters over the properties of messages: SQL92 expressions.

`sql` is the way in, and all the others need; `grammar` reads text, `conditions` gives it a meaning,
`values` compares as Java does. Filters by tag need no properties: see `broker.store.tag_filter`.
"""
