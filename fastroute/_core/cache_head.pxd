# cache_head: a plain, fresh value of the shared cache, recognised at a glance; no C interface.
