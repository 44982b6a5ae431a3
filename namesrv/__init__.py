"""The name server: brokers register here and clients learn who leads which group."""
