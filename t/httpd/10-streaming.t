#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Events arrive one by one, whatever carries them. The upstream withholds its second token until the client has its first;
# nothing sleeps. All set-ups give the same bytes for the same request.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;

my $SAME = 'sse?tokens=40&size=24&text=utf8&split=7';

my $config = chat('/chat', 'sse?script=two')
    . chat('/same', $SAME)
    . chat('/raw', $SAME, 'ChatStreamFormat raw')
    . chat('/rich', 'sse?script=rich');

my @setups = (
    { name => 'event, plain',          mpm => 'event' },
    { name => 'event, TLS',            mpm => 'event', tls => 1, ask => { tls => 1 } },
    { name => 'event, h2c',            mpm => 'event', http2 => 1, ask => { http2 => 1 } },
    { name => 'event, HTTP/2 and TLS', mpm => 'event', http2 => 1, tls => 1, ask => { http2 => 1, tls => 1 } },
    { name => 'worker',                mpm => 'worker' },
    { name => 'prefork',               mpm => 'prefork' },
);

sub normalised
{
    my ($text) = @_;
    my $uuid = qr/[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}/;
    $text =~ s/$uuid/UUID/g;
    $text =~ s/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z/TIME/g;
    $text =~ s/("(?:first_token|duration)_ms"):\d+/$1:MS/g;
    return $text;
}

# The handshake: true streaming, or the second token never comes.
sub handshake
{
    my ($t, $path, %options) = @_;
    my $name = delete $options{name} || $path;
    my $first = delete $options{first} || 'Hel';
    $t->upstream->reset;
    $t->upstream->script(two => "token Hel\nwait first\ntoken lo\nwait second\ntoken !\nwait third\ndone\n");
    my $stream = $t->stream("$path?message=hi", %options);
    is $stream->status, 200, "$name: status";
    is $stream->event_of('token')->{json}{content}, $first, "$name: the first token, while the second is withheld";
    unlike $stream->so_far, qr/"lo"/, "$name: and nothing of the second";
    $t->upstream->signal('first');
    is $stream->event_of('token')->{json}{content}, 'lo', "$name: the second, while the third is withheld";
    $t->upstream->signal('second');
    is $stream->event_of('token')->{json}{content}, '!', "$name: the third, while the end is withheld";
    $t->upstream->signal('third');
    is $stream->next_event->{json}{type}, 'complete', "$name: the end";
    is $stream->next_event, undef, "$name: and nothing behind it";
    ok $stream->complete, "$name: the answer ended properly";
    $stream->close;
    return;
}

my %bytes;
for my $setup (@setups) {
    my $name = $setup->{name};
    my %ask = %{ $setup->{ask} || {} };
    my $t = ChatStream::Test->new(
        config => $config,
        children => $setup->{mpm} eq 'prefork' ? 4 : 1,
        map { exists $setup->{$_} ? ($_ => $setup->{$_}) : () } qw(mpm tls http2),
    );
    handshake($t, '/chat', %ask, name => $name);
    $t->upstream->script(rich => <<'X');
header Content-Type: text/event-stream
send data: {"sources":[{"title":"A \xe2\x82\xac"}]}\n\n
send data: {"content":"one\\ntwo"}\r\n\r\n
send event: done\ndata: {"finish_reason":"stop","usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n
X
    for my $path (qw(/same /raw /rich)) {
        my $answer = $t->request("$path?message=hi", %ask);
        my $text = normalised($answer->body);
        ok $answer->complete, "$name: $path is whole";
        is $answer->header('content-type'), 'text/event-stream', "$name: $path has the content type";
        like $text, qr/^retry: 1000\n\n/, "$name: $path begins as it must";
        $bytes{$path} //= $text;
        is $text, $bytes{$path}, "$name: $path gives the same bytes";
    }
    $t->check;
}
cmp_ok length $bytes{'/same'}, '>', 40 * 24, 'the bytes compared are an answer';
like $bytes{'/same'}, qr/"tokens":40\}/, 'with all of its tokens';
like $bytes{'/rich'}, qr/"type":"metadata".*\n\n.*"content":"one\\ntwo".*\n\n.*"usage":\{"prompt_tokens":3,/s,
    'and one with metadata and usage';

# ---- streams that hold no thread -----------------------------------------------------------------------------------------

for my $tls (0, 1) {
    my $kind = $tls ? 'TLS' : 'plain';
    my $t = ChatStream::Test->new(config => $config, threads => 3, tls => $tls, server_config => 'ChatStreamMaxStreams 100');
    $t->upstream->script(two => "token Hel\nwait go\ntoken lo\ndone\n");
    my @streams = map { $t->stream('/chat?message=hi', tls => $tls) } 1 .. 12;
    is join(' ', map { $_->event_of('token')->{json}{content} } @streams), join(' ', ('Hel') x 12),
        "$kind: twelve streams live on a child of three threads";
    ok $t->wait_active(12), "$kind: and requests are still answered";
    $t->upstream->signal('go');
    is join(' ', map { $_->answer } @streams), join(' ', ('lo') x 12), "$kind: all of them come to their end";
    is scalar(grep { $_->complete } @streams), 12, "$kind: properly";
    $_->close for @streams;
    $t->check;
}

# ---- where a connection of the event MPM cannot be suspended -------------------------------------------------------------

my $t = ChatStream::Test->new(
    modules => [qw(substitute filter rewrite dir ratelimit)],
    tls     => 1,
    config  => chat('/chat', 'sse?script=two')
        . chat('/filtered', 'sse?script=two', 'AddOutputFilterByType SUBSTITUTE text/event-stream', 'Substitute s/Hel/HEL/n')
        . chat('/set', 'sse?script=two', 'SetOutputFilter SUBSTITUTE', 'Substitute s/Hel/HEL/n')
        . chat('/limited', 'sse?script=two', 'SetOutputFilter RATE_LIMIT', 'SetEnv rate-limit 400')
        . chat('/same', $SAME)
        . chat('/same-filtered', $SAME, 'SetOutputFilter SUBSTITUTE', 'Substitute s/never-there/x/n')
        . <<'END',
ErrorDocument 404 "/chat?message=lost"
<Directory "${DOCS}">
    RewriteEngine On
    RewriteRule ^moved$ /chat
</Directory>
END
    defines => { DOCS => '/nonexistent' },
    start   => 0,
);
$t->httpd->{defines}{DOCS} = $t->dir . '/htdocs';
$t->start;
for my $tls (0, 1) {
    my $kind = $tls ? ' (TLS)' : '';
    handshake($t, '/filtered', tls => $tls, first => 'HEL', name => "a filter by type$kind");
    handshake($t, '/set', tls => $tls, first => 'HEL', name => "a filter in the chain$kind");
    handshake($t, '/limited', tls => $tls, name => "mod_ratelimit$kind");
    handshake($t, '/moved', tls => $tls, name => "an internal redirect$kind");
    handshake($t, '/nowhere', tls => $tls, name => "an ErrorDocument$kind");
}
is normalised($t->request('/same-filtered?message=hi')->body), normalised($t->request('/same?message=hi')->body),
    'both sinks of one server give the same bytes';
is normalised($t->request('/same?message=hi')->body), $bytes{'/same'}, 'and those of the other set-ups';
$t->done;
