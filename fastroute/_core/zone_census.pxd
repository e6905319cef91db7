# zone_census: live bindings per server slot of a zone. For the control plane: def functions alone.
