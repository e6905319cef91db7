"""The rules of a shared HTTP cache (RFC 9111 and its companions) as pure functions: values in, verdicts out.

Not here: the store (fastroute.cache), connections and who waits for whom (fastroute.proxy). Rules of this package:
nothing waits, sends or looks at a clock; times are given, in milliseconds of the wall clock; what cannot be understood
is taken for what makes the cache do less.

    fields        lists, dates, directives, structured fields, entity tags
    storing       may this response be stored, and how long is it good for
    reuse         may this stored response answer that request, and with what
    ranges        parts of a stored response
    stored        the stored response itself, and what a 304 changes
    variants      Vary: which of the stored responses is meant
    keys          what a request, or a URL, is called
    invalidating  what an unsafe request makes unusable
    report        Cache-Status
"""
