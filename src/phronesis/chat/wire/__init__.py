"""Between records and the wire formats of chat endpoints, both ways: pure functions of JSON values, no connection, no clock."""
