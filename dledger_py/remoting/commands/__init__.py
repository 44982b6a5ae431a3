"""The vocabulary: one attrs class per request and reply, one pure module per JSON body."""
