/* fr_set_cookie.h: does a Set-Cookie field end its cookie? (RFC 6265 5.2 and 5.1.1)
 *
 * Not here: finding the field and its value (fr_sets_cookie of fr_forward.h).
 * Rules: pure functions over the field's bytes; what cannot be read as an attribute is ignored, as browsers ignore it: a
 * cookie ends only when it says so clearly, since ending a session by mistake is worse than keeping a record too long.
 */
#ifndef FR_SET_COOKIE_H
#define FR_SET_COOKIE_H

#include "fr_base.h"

static inline int fr_lower_is(const uint8_t *text, size_t size, const char *lower, size_t lower_size)
{
    if (size != lower_size)
        return 0;
    for (size_t i = 0; i < size; i++)
        if ((text[i] >= 'A' && text[i] <= 'Z' ? text[i] | 0x20 : text[i]) != (uint8_t)lower[i])
            return 0;
    return 1;
}

/* Up to `most` digits at *p; -1 when there is none. */
static inline long fr_few_digits(const uint8_t **p, const uint8_t *end, int most)
{
    long value = -1;
    for (; *p < end && **p >= '0' && **p <= '9' && most > 0; ++*p, most--)
        value = (value < 0 ? 0 : value) * 10 + (**p - '0');
    return value;
}

/* Days from 1970-01-01 to a date of the proleptic Gregorian calendar: years begin in March, so that a leap day is the last. */
static inline int64_t fr_days_of(int64_t year, int64_t month, int64_t day)
{
    int64_t era, of_era;
    year -= month <= 2;
    era = (year >= 0 ? year : year - 399) / 400;
    of_era = year - era * 400;
    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1 - 719468;
}

/* RFC 6265 5.1.1, the algorithm browsers follow for dates: tokens in any order. Seconds since 1970; 0 returned: no date. */
static inline int fr_cookie_date(const uint8_t *p, size_t size, int64_t *seconds)
{
    static const char months[] = "janfebmaraprmayjunjulaugsepoctnovdec";
    const uint8_t *end = p + size;
    long day = -1, month = -1, year = -1, hour = -1, minute = -1, second = -1;
    while (p < end) {
        const uint8_t *word, *stop, *at;
        while (p < end && (*p == '\t' || (*p >= 0x20 && *p <= 0x2F) || (*p >= 0x3B && *p <= 0x40) || (*p >= 0x5B && *p <= 0x60) ||
                           (*p >= 0x7B && *p <= 0x7E)))
            p++;
        for (word = p; p < end && !(*p == '\t' || (*p >= 0x20 && *p <= 0x2F) || (*p >= 0x3B && *p <= 0x40) ||
                                    (*p >= 0x5B && *p <= 0x60) || (*p >= 0x7B && *p <= 0x7E));)
            p++;
        stop = at = p;
        at = word;
        if (hour < 0) {
            long h = fr_few_digits(&at, stop, 2), m = -1, s = -1;
            if (h >= 0 && at < stop && *at == ':') {
                at++;
                m = fr_few_digits(&at, stop, 2);
                if (m >= 0 && at < stop && *at == ':') {
                    at++;
                    s = fr_few_digits(&at, stop, 2);
                }
            }
            if (s >= 0) {
                hour = h;
                minute = m;
                second = s;
                continue;
            }
            at = word;
        }
        if (day < 0) {
            long found = fr_few_digits(&at, stop, 2);
            if (found >= 0 && (at == stop || *at < '0' || *at > '9')) {
                day = found;
                continue;
            }
            at = word;
        }
        if (month < 0 && stop - word >= 3) {
            for (int i = 0; i < 12 && month < 0; i++)
                if (fr_lower_is(word, 3, months + 3 * i, 3))
                    month = i + 1;
            if (month > 0)
                continue;
        }
        if (year < 0) {
            long found = fr_few_digits(&at, stop, 4);
            if (found >= 0 && at - word >= 2 && (at == stop || *at < '0' || *at > '9')) {
                year = found < 70 && at - word <= 2 ? found + 2000 : found < 100 && at - word <= 2 ? found + 1900 : found;
                continue;
            }
        }
    }
    if (day < 1 || day > 31 || month < 0 || year < 1601 || hour < 0 || hour > 23 || minute > 59 || second > 59)
        return 0;
    *seconds = fr_days_of(year, month, day) * 86400 + hour * 3600 + minute * 60 + second;
    return 1;
}

/* Does the Set-Cookie value (all of the field) tell the client to forget the cookie? An empty value, Max-Age of 0 or less,
 * or, without Max-Age, an Expires that is over. The last attribute of a name counts. */
static inline int fr_ends_cookie(const uint8_t *value, size_t size, int64_t now_s)
{
    const uint8_t *end = value + size, *p = (const uint8_t *)memchr(value, ';', size);
    const uint8_t *equals = (const uint8_t *)memchr(value, '=', p ? (size_t)(p - value) : size);
    const uint8_t *stop = p ? p : end;
    int by_age = -1, by_date = 0;
    if (equals == NULL)
        return 0;
    for (equals++; equals < stop && (*equals == ' ' || *equals == '\t'); equals++)
        ;
    if (equals == stop)
        return 1;
    while (p != NULL && p < end) {
        const uint8_t *name = ++p, *name_end, *what, *what_end, *next = (const uint8_t *)memchr(p, ';', (size_t)(end - p));
        what_end = next ? next : end;
        while (name < what_end && (*name == ' ' || *name == '\t'))
            name++;
        name_end = (const uint8_t *)memchr(name, '=', (size_t)(what_end - name));
        if (name_end != NULL) {
            what = name_end + 1;
            while (name_end > name && (name_end[-1] == ' ' || name_end[-1] == '\t'))
                name_end--;
            while (what < what_end && (*what == ' ' || *what == '\t'))
                what++;
            while (what_end > what && (what_end[-1] == ' ' || what_end[-1] == '\t'))
                what_end--;
            if (fr_lower_is(name, (size_t)(name_end - name), "max-age", 7) && what < what_end) {
                int negative = *what == '-', digits = 1, zero = 1;
                for (const uint8_t *c = what + negative; c < what_end; c++) {
                    digits &= *c >= '0' && *c <= '9';
                    zero &= *c == '0';
                }
                if (digits && what + negative < what_end)
                    by_age = negative || zero;
            } else if (fr_lower_is(name, (size_t)(name_end - name), "expires", 7)) {
                int64_t seconds;
                if (fr_cookie_date(what, (size_t)(what_end - what), &seconds))
                    by_date = seconds <= now_s;
            }
        }
        p = next;
    }
    return by_age >= 0 ? by_age : by_date;
}

#endif
