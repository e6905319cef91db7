/* fr_address.h: IP addresses of text as 16 bytes, and lists of networks that hold them.
 *
 * Not a resolver: names are nobody's address. IPv4 is kept as IPv4-mapped IPv6 (RFC 4291, 2.5.5.2), so that one comparison
 * serves both and "::ffff:10.0.0.1" is 10.0.0.1. Rules: pure functions, nothing allocated.
 */
#ifndef FR_ADDRESS_H
#define FR_ADDRESS_H

#include <arpa/inet.h>

#include "fr_base.h"

typedef struct {
    uint8_t bytes[16];
} fr_address;

typedef struct {
    fr_address base;
    int bits; /* 0..128, of the mapped form */
} fr_network;

/* The host part of "host", "host:port", "[v6]", "[v6]:port" or bare "v6": its size, *from is moved to its first byte. */
static inline size_t fr_host_part(const uint8_t **from, size_t size)
{
    const uint8_t *text = *from, *colon;

    if (size && text[0] == '[') {
        const uint8_t *end = (const uint8_t *)memchr(text, ']', size);

        *from = text + 1;
        return end == NULL ? 0 : (size_t)(end - text - 1);
    }
    colon = size ? (const uint8_t *)memchr(text, ':', size) : NULL;
    if (colon == NULL || memchr(colon + 1, ':', size - (size_t)(colon + 1 - text)) != NULL)
        return size; /* no port, or a bare IPv6 address */
    return (size_t)(colon - text);
}

/* Is this text an address, with or without a port? Then *out is it. A zone ("%eth0") does not count. */
static inline int fr_address_parse(const uint8_t *text, size_t size, fr_address *out)
{
    char room[INET6_ADDRSTRLEN + 1];
    const uint8_t *zone;

    size = fr_host_part(&text, size);
    zone = size ? (const uint8_t *)memchr(text, '%', size) : NULL;
    if (zone != NULL)
        size = (size_t)(zone - text);
    if (size == 0 || size > INET6_ADDRSTRLEN)
        return 0;
    memcpy(room, text, size);
    room[size] = 0;
    if (memchr(text, ':', size) != NULL)
        return inet_pton(AF_INET6, room, out->bytes) == 1;
    memset(out->bytes, 0, 10);
    out->bytes[10] = out->bytes[11] = 0xFF;
    return inet_pton(AF_INET, room, out->bytes + 12) == 1;
}

static inline int fr_network_holds(const fr_network *network, const fr_address *address)
{
    int whole = network->bits >> 3, rest = network->bits & 7;

    if (memcmp(network->base.bytes, address->bytes, (size_t)whole) != 0)
        return 0;
    return rest == 0 || ((network->base.bytes[whole] ^ address->bytes[whole]) >> (8 - rest)) == 0;
}

static inline int fr_networks_hold(const fr_network *networks, uint32_t count, const fr_address *address)
{
    for (uint32_t i = 0; i < count; i++)
        if (fr_network_holds(&networks[i], address))
            return 1;
    return 0;
}

#endif
