"""Files derived from the log, and reading messages through them.

Everything here can be deleted and built again by applying the log, which happens at every start.
`consume_queues` is the index of each queue, `queue_files` its blocking files, `message_reader`
turns index units into records, `tag_filter` chooses among units.
"""
