"""The metadata store on etcd v3.

`messages.proto` is the part of etcd's API that we use; `tools/generate_etcd_messages.py` makes it and its Python
module from etcd's own definitions. grpc is imported here and nowhere else, and only by nodes whose metadata is in etcd.
"""
