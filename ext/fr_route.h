/* fr_route.h: which of a listener's routes a request takes, by host, path and client.
 *
 * Not here: where routes come from (http_routes), what a route leads to. The idea: hosts stand in an open hash table, each
 * with its routes in the order in which they are tried; a request's host is looked up exactly, then by its suffixes from the
 * longest to the shortest (".example" is what "*.example" is kept as), then the routes of any host follow. The first route
 * that takes path and client wins: the more exact host, then the longer path, then the narrower network.
 * Paths are compared on segment boundaries ("/api" takes "/api", "/api/x", "/api;v=1", not "/apix"), and after "%61" was read
 * as "a" and dot segments were removed (RFC 3986, 6.2.2), for a server reads them so: "/public/%2e%2e/admin" is "/admin".
 * What is forwarded stays as it came. Cost: two hashes of a short host and a few compares; nothing without routes.
 * Rules: pure functions over one immutable block, no allocation but in the caller's scratch buffer.
 */
#ifndef FR_ROUTE_H
#define FR_ROUTE_H

#include "fr_address.h"
#include "fr_hash.h"
#include "fr_out.h"

/* RFC 1035, 2.3.4: 255 octets; a longer host is nobody's. */
#define FR_HOST_BYTES_MAX 255

typedef struct {
    const uint8_t *path; /* lower bound of what it takes; size 0: every path */
    size_t path_size;
    const fr_network *networks; /* of clients; count 0: every client */
    uint32_t network_count;
    uint32_t target;
} fr_route;

typedef struct {
    const uint8_t *host; /* lower case; ".example" for "*.example" */
    size_t host_size;
    uint64_t hash;
    uint32_t first, count; /* of its routes */
} fr_route_host;

typedef struct {
    fr_route *routes;
    fr_route_host *hosts;   /* hosts[0]: any host */
    uint32_t *buckets;      /* 0: empty, else an index of hosts */
    uint32_t mask;
    uint32_t host_count;
    int has_networks;
} fr_routes;

static inline uint64_t fr_host_hash(const uint8_t *host, size_t size)
{
    return fr_xxh64(host, size, 0);
}

static inline const fr_route_host *fr_route_host_of(const fr_routes *table, const uint8_t *host, size_t size)
{
    uint64_t hash = fr_host_hash(host, size);

    for (uint32_t at = (uint32_t)hash & table->mask;; at = (at + 1) & table->mask) {
        const fr_route_host *found = &table->hosts[table->buckets[at]];

        if (table->buckets[at] == 0)
            return NULL;
        if (found->hash == hash && found->host_size == size && memcmp(found->host, host, size) == 0)
            return found;
    }
}

static inline int fr_path_is_under(const uint8_t *path, size_t size, const uint8_t *prefix, size_t prefix_size)
{
    if (prefix_size == 0)
        return 1;
    if (size < prefix_size || memcmp(path, prefix, prefix_size) != 0)
        return 0;
    return size == prefix_size || prefix[prefix_size - 1] == '/' || path[prefix_size] == '/' || path[prefix_size] == ';';
}

static inline int fr_hex_of(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static inline int fr_is_unreserved(int c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_' ||
           c == '~';
}

/* Reads unreserved characters that are percent-encoded as what they are, and removes dot segments (RFC 3986, 6.2.2.2 and
 * 5.2.4), in place. Returns the new size. A path parameter belongs to its segment: "/..;x" is "/..", as servers read it. */
static inline size_t fr_path_normalise(uint8_t *path, size_t size)
{
    size_t to = 0, from = 0, begin, end;

    for (size_t i = 0; i < size; i++) {
        int high, low;

        if (path[i] == '%' && i + 2 < size && (high = fr_hex_of(path[i + 1])) >= 0 && (low = fr_hex_of(path[i + 2])) >= 0 &&
            fr_is_unreserved(high << 4 | low)) {
            path[to++] = (uint8_t)(high << 4 | low);
            i += 2;
        } else {
            path[to++] = path[i];
        }
    }
    size = to;
    to = 0;
    while (from < size) { /* a segment begins with its '/' */
        begin = from++;
        while (from < size && path[from] != '/')
            from++;
        for (end = begin + 1; end < from && path[end] != ';'; end++)
            ;
        if (end - begin == 2 && path[begin + 1] == '.') {
            if (from == size)
                path[to++] = '/';
        } else if (end - begin == 3 && path[begin + 1] == '.' && path[begin + 2] == '.') {
            while (to > 0 && path[--to] != '/')
                ;
            if (from == size)
                path[to++] = '/';
        } else {
            memmove(path + to, path + begin, from - begin);
            to += from - begin;
        }
    }
    return to;
}

static inline long fr_route_of_host(const fr_routes *table, const fr_route_host *host, const uint8_t *path, size_t size,
                                    const fr_address *client)
{
    for (uint32_t i = host->first; i < host->first + host->count; i++) {
        const fr_route *route = &table->routes[i];

        if (!fr_path_is_under(path, size, route->path, route->path_size))
            continue;
        if (route->network_count &&
            (client == NULL || !fr_networks_hold(route->networks, route->network_count, client)))
            continue;
        return (long)route->target;
    }
    return -1;
}

/* The target of the route that takes a request; -1: none does. authority: "host" or "host:port"; path: up to '?' or whole,
 * as it came; client: NULL where it has no address; scratch: for a path that is not in its normal form. */
static inline long fr_route_find(const fr_routes *table, const uint8_t *authority, size_t authority_size, const uint8_t *path,
                                 size_t path_size, const fr_address *client, fr_out *scratch)
{
    uint8_t host[FR_HOST_BYTES_MAX + 1];
    const fr_route_host *found;
    const uint8_t *query = path_size ? (const uint8_t *)memchr(path, '?', path_size) : NULL;
    const uint8_t *from = authority;
    size_t size, kept = scratch->size;
    long target = -1;

    if (query != NULL)
        path_size = (size_t)(query - path);
    if (path_size == 0 || path[0] != '/') { /* "*", or an absolute form without a path */
        path = (const uint8_t *)"/";
        path_size = 1;
    } else if (FR_UNLIKELY(memchr(path, '%', path_size) != NULL || memmem(path, path_size, "/.", 2) != NULL)) {
        fr_out_put(scratch, path, path_size);
        if (scratch->failed)
            return -1;
        path = scratch->data + kept;
        path_size = fr_path_normalise(scratch->data + kept, path_size);
        scratch->size = kept;
    }
    if (table->host_count > 1) {
        size = fr_host_part(&from, authority_size);
        if (size && from[size - 1] == '.')
            size--;
        if (size && size <= FR_HOST_BYTES_MAX) {
            for (size_t i = 0; i < size; i++)
                host[i] = from[i] >= 'A' && from[i] <= 'Z' ? from[i] | 0x20 : from[i];
            found = host[0] == '.' ? NULL : fr_route_host_of(table, host, size); /* ".example" is kept for "*.example" */
            if (found != NULL)
                target = fr_route_of_host(table, found, path, path_size, client);
            for (size_t i = 1; i < size && target < 0; i++) {
                if (host[i] != '.')
                    continue;
                found = fr_route_host_of(table, host + i, size - i);
                if (found != NULL)
                    target = fr_route_of_host(table, found, path, path_size, client);
            }
        }
    }
    return target >= 0 ? target : fr_route_of_host(table, &table->hosts[0], path, path_size, client);
}

#endif
