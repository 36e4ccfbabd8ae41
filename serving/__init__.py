"""The programs: wire protocol, client, model server, gateway, load generator, command line."""
