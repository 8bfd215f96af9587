#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# HTTP around a stream: headers, HTTP/1.0, Expect, pipelining, keep-alive, bodies over HTTP/2, compression kept off.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;
use IO::Uncompress::Gunzip ();
use Time::HiRes qw(time);

my $UUID7 = qr/[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}/;

sub complete { my (@arguments) = @_; my $text = chat(@arguments); $text =~ s/SetHandler chatstream$/SetHandler chatstream-complete/m; return $text }

my $config = chat('/chat', 'sse?tokens=3')
    . chat('/two', 'sse?script=two')
    . chat('/gzip', 'sse?script=two', 'SetOutputFilter DEFLATE')
    . chat('/brotli', 'sse?script=two', 'SetOutputFilter BROTLI_COMPRESS')
    . chat('/bytype', 'sse?script=two', 'AddOutputFilterByType DEFLATE text/event-stream')
    . complete('/complete', 'sse?tokens=3')
    . complete('/complete-gzip', 'sse?tokens=200', 'SetOutputFilter DEFLATE');
my %server = (config => $config, modules => [qw(deflate brotli filter)], server_config => 'ChatStreamMaxStreams 100');

my $t = ChatStream::Test->new(%server, tls => 1, http2 => 1);

# ---- headers of a stream -------------------------------------------------------------------------------------------------

for my $ask ([ 'HTTP/1.1' ], [ 'TLS', tls => 1 ], [ 'HTTP/2', http2 => 1 ], [ 'HTTP/1.0', version => '1.0' ]) {
    my ($name, %ask) = @$ask;
    my $stream = $t->stream('/chat?message=a', %ask);
    is $stream->header('content-type'), 'text/event-stream', "$name: Content-Type";
    is $stream->header('cache-control'), 'no-cache, no-transform', "$name: Cache-Control";
    is $stream->header('x-accel-buffering'), 'no', "$name: X-Accel-Buffering";
    like $stream->header('x-stream-id'), qr/^$UUID7$/, "$name: X-Stream-Id is a UUIDv7";
    is $stream->header('x-connection-id'), $stream->header('x-stream-id'), "$name: X-Connection-Id, when the client sent none";
    is $stream->header($_), undef, "$name: no $_" for qw(content-length etag last-modified content-encoding accept-ranges);
    is $stream->event->{json}{stream_id}, $stream->header('x-stream-id'), "$name: the start event has the same id";
    like +($stream->events)[-1]{data}, qr/"type":"complete"/, "$name: whole";
    ok $stream->complete, "$name: ended properly";
}

for my $id ('c-1', 'x' x 128, '~!@#$%^&*()"<>', '0') {
    is $t->request('/chat?message=a', headers => { 'X-Connection-Id' => $id })->header('x-connection-id'), $id, "X-Connection-Id $id is echoed";
}
for my $id ('x' x 129, 'a b', "a\tb", "\xc3\xa9", '') {
    my $answer = $t->request('/chat?message=a', headers => [ 'X-Connection-Id' => $id ]);
    is $answer->header('x-connection-id'), $answer->header('x-stream-id'), 'a hostile X-Connection-Id is not';
}

# ---- HTTP/1.0 ------------------------------------------------------------------------------------------------------------

for my $tls (0, 1) {
    $t->upstream->reset;
    $t->upstream->script(two => "token Hel\nwait seen\ntoken lo\ndone\n");
    my $old = $t->stream('/two?message=a', version => '1.0', tls => $tls, headers => { Connection => 'keep-alive' });
    is $old->header('transfer-encoding'), undef, 'HTTP/1.0: no chunks';
    is $old->header('connection'), 'close', 'HTTP/1.0: the connection ends the body';
    is $old->event_of('token')->{json}{content}, 'Hel', 'HTTP/1.0: streams';
    $t->upstream->signal('seen');
    is $old->answer, 'lo', 'HTTP/1.0: to the end';
    ok $old->wait_closed, 'HTTP/1.0: and the server closes';
    ok Net::SSLeay::get_shutdown($old->socket->_get_ssl_object) & 2, 'with close_notify: this is the end, no cut' if $tls;
    $old->close;
}

# ---- Expect --------------------------------------------------------------------------------------------------------------

sub wait_for_text
{
    my ($client, $pattern) = @_;
    my $deadline = time + 10;
    while ($client->{input} !~ $pattern) {
        $client->_fill($deadline) or last;
    }
    return $client->{input};
}

my $post = "POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n";
my $waiting = $t->open('/', raw => $post . "Content-Length: 15\r\n\r\n");
like wait_for_text($waiting, qr/\r\n\r\n/), qr{^HTTP/1.1 100 Continue\r\n\r\n}, 'Expect: the body is asked for';
$waiting->send('{"message":"a"}');
is scalar($waiting->events), 5, 'Expect: then comes the stream';
$waiting->close;
my $refused = $t->open('/', raw => $post . "Content-Length: 90000000\r\n\r\n");
is $refused->status, 413, 'Expect: a body too large is refused';
unlike $refused->{status_line}, qr/100/, 'Expect: before it was sent';
$refused->close;

# ---- one connection, several requests ------------------------------------------------------------------------------------

my $request = "Host: localhost\r\n\r\n";
# The upstream waits, so this one is suspended for certain; a short answer may end on its request thread.
$t->upstream->reset;
$t->upstream->script(two => "token Hel\nwait seen\ntoken lo\ndone\n");
my $two = $t->open('/', raw => "GET /two?message=a HTTP/1.1\r\n${request}GET /chat?message=b HTTP/1.1\r\n$request");
is $two->event_of('token')->{json}{content}, 'Hel', 'a stream with a request behind it';
is $two->header('connection'), 'close', 'a suspended connection is closed after its stream';
$t->upstream->signal('seen');
is $two->answer, 'lo', 'a pipelined second request does not disturb the stream';
ok $two->complete, 'which ends properly';
ok $two->wait_closed, 'the connection is closed';
unlike $two->{input}, qr{HTTP/1.1}, 'the second request is not answered, the client has to ask again';
$two->close;
is $t->upstream->count('requests'), 1, 'nor is anybody asked';

my $errors = $t->open('/', raw => "GET /chat HTTP/1.1\r\n${request}");
is $errors->status, 400, 'a refusal';
$errors->close;
my $pipe = $t->open('/', raw => "PUT /chat HTTP/1.1\r\nContent-Length: 5\r\n${request}GET12GET /-/health HTTP/1.1\r\n$request");
is $pipe->status, 405, 'a refusal that keeps the connection';
my $answers = $pipe->body . wait_for_text($pipe, qr/\}\n$/);
like $answers, qr/method_not_allowed.*HTTP\/1.1 200 OK.*sse_streaming/s, 'the next request on it is answered';
$pipe->close;

# ---- bodies over HTTP/2 --------------------------------------------------------------------------------------------------

is scalar($t->request('/chat', http2 => 1, json => { message => 'a' })->events), 5, 'HTTP/2: a JSON body';
my $h2 = $t->request('/chat', http2 => 1, method => 'POST',
    headers => { 'Content-Type' => 'application/json', 'Transfer-Encoding' => 'chunked' }, body => '{"message":"unsized"}');
is $h2->status, 200, 'HTTP/2: a body of unknown length';
like +($t->upstream->requests)[-1]{body}, qr/"unsized"/, 'HTTP/2: it arrives';

# ---- compression ---------------------------------------------------------------------------------------------------------

for my $path (qw(/gzip /brotli /bytype)) {
    for my $ask ([], [ http2 => 1 ]) {
        $t->upstream->reset;
        $t->upstream->script(two => "token Hel\nwait seen\ntoken lo\ndone\n");
        my $stream = $t->stream("$path?message=a", @$ask, headers => { 'Accept-Encoding' => 'gzip, br' });
        is $stream->header('content-encoding'), undef, "$path @$ask: not compressed";
        is $stream->event_of('token')->{json}{content}, 'Hel', "$path @$ask: streams";
        $t->upstream->signal('seen');
        is $stream->answer, 'lo', "$path @$ask: to the end";
        $stream->close;
    }
}
my $packed = $t->request('/complete-gzip?message=a', headers => { 'Accept-Encoding' => 'gzip' });
is $packed->header('content-encoding'), 'gzip', 'a document may be compressed';
my $bytes = $packed->body;
IO::Uncompress::Gunzip::gunzip(\$bytes => \my $unpacked);
is eval { JSON::PP->new->utf8->decode($unpacked)->{metrics}{tokens} }, 200, 'and is whole';
$t->check;

# ---- keep-alive where a thread serves ------------------------------------------------------------------------------------

for my $mpm (qw(worker prefork)) {
    my $t = ChatStream::Test->new(%server, mpm => $mpm, $mpm eq 'prefork' ? (children => 3) : ());
    for my $path (qw(/complete /chat)) {
        my $client = $t->open('/', raw => "GET $path?message=a HTTP/1.1\r\n${request}GET /-/health HTTP/1.1\r\n$request");
        is $client->status, 200, "$mpm, $path: answered";
        isnt lc($client->header('connection') // ''), 'close', "$mpm, $path: the connection is kept";
        like $client->body . wait_for_text($client, qr/\}\n$/), qr/(?:complete|"content").*HTTP\/1.1 200 OK.*sse_streaming/s,
            "$mpm, $path: and serves the next request";
        like $client->{input}, qr/sse_streaming/, "$mpm, $path: whole";
        $client->close;
    }
    $t->check;
}
done_testing();
