/* fr_answer.h: the answers that the relay gives in a server's place: status line, fields and a body of one line.
 *
 * Not here: when to answer, and with what. Rules: fixed texts and the operator's pages alone, never a byte of the request (an
 * echo is how pages of errors come to carry scripts); no name and no version of this program.
 */
#ifndef FR_ANSWER_H
#define FR_ANSWER_H

#include "fr_fields.h"
#include "fr_out.h"

typedef struct {
    const uint8_t *date;
    size_t date_size;
    int close;   /* the connection ends after this answer */
    const fr_field_rules *rules; /* of the listener or route; NULL: none */
    const fr_text *values;
    const fr_text *head; /* of a page of the operator's: Content-Type and Content-Length with their line ends; NULL: our own text */
    const fr_text *body;
    int is_head; /* to a HEAD request: the body's length is told, the body is not sent (RFC 9110, 9.3.2) */
} fr_answer;

/* The phrases of RFC 9110, 15; "Error" for a status that only a hook of an embedder uses. */
static inline const char *fr_phrase_of(int status)
{
    switch (status) {
    case 200: return "OK";
    case 201: return "Created";
    case 202: return "Accepted";
    case 301: return "Moved Permanently";
    case 302: return "Found";
    case 303: return "See Other";
    case 307: return "Temporary Redirect";
    case 308: return "Permanent Redirect";
    case 401: return "Unauthorized";
    case 400: return "Bad Request";
    case 404: return "Not Found";
    case 403: return "Forbidden";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 413: return "Content Too Large";
    case 414: return "URI Too Long";
    case 417: return "Expectation Failed";
    case 421: return "Misdirected Request";
    case 426: return "Upgrade Required";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    }
    return "Error";
}

/* Returns the size of the body in it. */
static inline size_t fr_write_answer(fr_out *out, int status, const fr_answer *how)
{
    const char *phrase = fr_phrase_of(status);

    fr_out_lit(out, "HTTP/1.1 ");
    fr_out_decimal(out, (uint64_t)status);
    fr_out_lit(out, " ");
    fr_out_text(out, phrase);
    fr_out_lit(out, "\r\nDate: ");
    fr_out_put(out, how->date, how->date_size);
    fr_out_lit(out, "\r\n");
    if (how->head != NULL) {
        fr_out_put(out, how->head->data, how->head->size);
    } else {
        fr_out_lit(out, "Content-Type: text/plain\r\nContent-Length: ");
        fr_out_decimal(out, strlen(phrase) + 1);
        fr_out_lit(out, "\r\n");
    }
    if (how->rules != NULL)
        fr_fields_put(out, how->rules, how->values);
    if (how->close)
        fr_out_lit(out, "Connection: close\r\n");
    fr_out_lit(out, "\r\n");
    if (how->is_head)
        return 0;
    if (how->body != NULL) {
        fr_out_put(out, how->body->data, how->body->size);
        return how->body->size;
    }
    fr_out_text(out, phrase);
    fr_out_lit(out, "\n");
    return strlen(phrase) + 1;
}

#endif
