"""Videos, pictures and questions in, tar shards out (pack); tar shards in, samples out in an order that can be resumed."""
