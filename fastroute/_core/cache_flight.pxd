# cache_flight: the records of one get_or_compute of the shared cache. Made and read by Python only.
