#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# conf/examples/bali-zero.conf as a user includes it, and the ten checks its staging system is released by, with curl.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;
use ChatStream::Token;
use Time::HiRes qw(time);

my $STREAM = '/api/v2/bali-zero/chat-stream';
my $WHOLE = '/api/v2/bali-zero/chat';
my $site = free_port();

my $t = ChatStream::Test->new(
    start => 0, bare => 1, children => 2, threads => 64, log_level => 'debug',
    env           => { ENABLE_STREAMING => 'true' },
    server_config => 'Include "' . source_dir() . '/conf/examples/bali-zero.conf"',
);
my $flags = $t->dir . '/flags.json';
my $key = ChatStream::Token->new('HS256', dir => $t->dir);
$t->httpd->{defines} = {
    %{ $t->httpd->{defines} },
    CHAT_PORT        => $site,
    RAG_URL          => $t->upstream->url . '/sse?script=rag',
    CHAT_JWT_SECRET  => $key->file,
    CHAT_FLAG_FILE   => $flags,
    CHAT_ORIGIN      => 'https://app.example.com',
};
$t->start;

# curl, from an address of its own for each check: twenty questions a minute are for one.
my $client = 1;
sub next_client { $client++; return }

sub curl
{
    my ($path, %options) = @_;
    my $arguments = delete $options{arguments} || [];
    return $t->open($path, port => $site, http2 => 1, http => '1.1', arguments => [ '--interface', "127.0.0.$client", @$arguments ], %options);
}

sub asked { return JSON::PP::decode_json(($t->upstream->requests)[-1]{body}) }

sub write_flags
{
    my ($text) = @_;
    open my $handle, '>', "$flags.new" or die;
    print $handle $text;
    close $handle;
    rename "$flags.new", $flags or die;
    return;
}

sub events_of
{
    my ($answer) = @_;
    return join ' ', map { $_->{json}{type} // $_->{event} } $answer->events;
}

$t->upstream->script(rag => "token Re: \ntoken \$message\ndone\n");

# 1: a simple GET
my $answer = curl("$STREAM?query=How+do+I+found+a+PT+PMA%3F&user_email=anna%40example.com&user_role=member");
is $answer->status, 200, '1: a simple GET';
is $answer->header('content-type'), 'text/event-stream', '1: is answered with events';
is $answer->header('cache-control'), 'no-cache, no-transform', '1: that nobody keeps';
is events_of($answer), 'start token token complete', '1: from start to complete';
like $answer->body, qr/How do I found a PT PMA\?/, '1: about what was asked';
is asked()->{message}, 'How do I found a PT PMA?', '1: the upstream got the question';
is asked()->{user_email}, 'anna@example.com', '1: and what the parameters said';
is $answer->exit_status, 0, '1: curl is content';

# 2: POST with a JSON body
my $body = JSON::PP->new->canonical->encode({ query => 'Visa untuk 2 orang?', user_role => 'member', conversation_history => [ { role => 'user', content => 'Halo' } ] });
$answer = curl($STREAM, body => $body, headers => [ 'Content-Type' => 'application/json' ]);
is $answer->status, 200, '2: POST with JSON';
is events_of($answer), 'start token token complete', '2: streams the same way';
is asked()->{conversation_history}[0]{content}, 'Halo', '2: with its history';

# 3: GET with conversation_history
$answer = curl("$STREAM?query=And+tax%3F&conversation_history=%5B%7B%22role%22%3A%22user%22%2C%22content%22%3A%22secret+plans%22%7D%2C%7B%22role%22%3A%22assistant%22%2C%22content%22%3A%22Yes%22%7D%5D");
is $answer->status, 200, '3: GET with conversation_history';
is_deeply(asked()->{conversation_history}, [ { role => 'user', content => 'secret plans' }, { role => 'assistant', content => 'Yes' } ],
    '3: which reaches the upstream');
is events_of($answer), 'start token token complete', '3: and is answered';

# 4: the first token, while the upstream has not said more
$t->upstream->script(rag => "token Hel\nwait seen\ntoken lo\ndone\n");
my $started = time;
$answer = curl("$STREAM?query=quick");
is $answer->event_of('token')->{json}{content}, 'Hel', '4: the first token comes while the upstream still waits';
diag sprintf '4: after %.0f ms, with the start of curl', (time - $started) * 1000;
$t->upstream->signal('seen');
my ($end) = grep { ($_->{json}{type} // '') eq 'complete' } $answer->events;
cmp_ok $end->{json}{metrics}{first_token_ms}, '>=', 0, '4: complete tells the time';
diag "4: $end->{json}{metrics}{first_token_ms} ms as the module measured it";

# 5: ten at once
next_client();
$t->upstream->script(rag => "token Hel\nwait ten\ntoken lo\ndone\n");
my @ten = map { curl("$STREAM?query=one+of+ten") } 1 .. 10;
is join(' ', map { $_->status } @ten), join(' ', (200) x 10), '5: ten at once';
is join(' ', map { $_->event_of('token')->{json}{content} } @ten), join(' ', ('Hel') x 10), '5: each has begun, none has ended';
is JSON::PP::decode_json(curl('/health')->body)->{streams}{active}, 10, '5: all ten are active';
$t->upstream->signal('ten');
is join(' ', map { $_->answer } @ten), join(' ', ('lo') x 10), '5: all ten end';

# 6: 25 in a hurry
next_client();
$t->upstream->script(rag => "token Re: \ntoken \$message\ndone\n");
my @rapid = map { curl("$STREAM?query=hurry") } 1 .. 25;
my %count;
$count{ $_->status }++ for @rapid;
is_deeply(\%count, { 200 => 20, 429 => 5 }, '6: of 25 rapid requests 20 are answered and 5 refused');
for my $refused (grep { $_->status == 429 } @rapid) {
    is $refused->json->{code}, 'rate_limited', '6: with the reason';
    like $refused->header('retry-after'), qr/^(?:[1-5]?\d|60)$/, '6: and Retry-After within a minute';
    is $refused->header('ratelimit-limit') . ' ' . $refused->header('ratelimit-remaining'), '20 0', '6: and the limit';
}
is curl($WHOLE, json => { query => 'hurry' })->status, 429, '6: the other endpoint shares the limit';
my $token = $key->sign({ sub => 'anna', email => 'anna@example.com', role => 'member', exp => time + 600 });
$answer = curl("$STREAM?query=with+a+name", headers => [ Authorization => "Bearer $token" ]);
is $answer->status, 200, '6: a user with a name has a limit of her own';
is join(' ', @{ asked() }{qw(user user_email user_role)}), 'anna anna@example.com member', '6: who she is, her token says';
is curl("$STREAM?query=x&token=" . $key->sign({ sub => 'anna', exp => 1 }))->status, 401, '6: a token that ran out is refused';
is curl("$STREAM?query=x", headers => [ 'X-User-Id' => 'somebody' ])->status, 429, '6: a header is no name';

# 7: reconnect
next_client();
$t->upstream->script(rag => "token Hel\nwait back\ntoken lo\ndone\n");
my @id = ('X-Connection-Id' => 'tab-7f3a');
my $first = curl("$STREAM?query=reconnect", headers => [@id]);
is $first->header('x-connection-id'), 'tab-7f3a', '7: the connection\'s id is echoed';
my $stream_id = $first->header('x-stream-id');
my $last = $first->event_of('token')->{id};
$first->close;
my $again = curl("$STREAM?query=reconnect", headers => [ @id, 'Last-Event-ID' => $last ]);
is $again->status, 200, '7: it comes back';
is $again->header('x-connection-id'), 'tab-7f3a', '7: under the same id';
is $again->header('x-stream-id'), $stream_id, '7: to the same stream';
$t->upstream->signal('back');
is $again->answer, 'lo', '7: and reads on where it was';
$t->upstream->script(rag => "token Re: \ntoken \$message\ndone\n");
my $new = curl("$STREAM?query=reconnect", headers => [@id]);
is $new->header('x-connection-id'), 'tab-7f3a', '7: a new question under the old id is fine too';
isnt $new->header('x-stream-id'), $stream_id, '7: as a stream of its own';
$new->body;

# 9: the complete endpoint (8, the logs, is looked at when all has been asked)
$answer = curl($WHOLE, json => { query => 'All at once?' });
is $answer->status, 200, '9: the complete endpoint';
is $answer->header('content-type'), 'application/json', '9: is answered with JSON';
my $document = $answer->json;
is $document->{content}, 'Re: All at once?', '9: the whole answer' or diag JSON::PP->new->canonical->encode($document);

# 10: the flag
next_client();
$t->upstream->script(rag => "token Hel\nwait off\ntoken lo\ndone\n");
ok JSON::PP::decode_json(curl('/health')->body)->{features}{sse_streaming}, '10: health: streaming is on';
my $running = curl("$STREAM?query=running");
$running->event_of('token');
write_flags('{"enabled":false}');
$started = time;
ok wait_until(sub { !JSON::PP::decode_json(curl('/health')->body)->{features}{sse_streaming} }, 10), '10: health: it is off';
diag sprintf '10: %.1f s after the flag file was written', time - $started;
$answer = curl("$STREAM?query=off");
is $answer->status, 404, '10: there is no stream any more';
is $answer->json->{code}, 'streaming_disabled', '10: and the code says why';
$t->upstream->signal('off');
is $running->answer, 'lo', '10: the one that ran was not cut';
is curl($WHOLE, json => { query => 'off?' })->status, 200, '10: the complete endpoint goes on';
write_flags('{"enabled":true}');
ok wait_until(sub { JSON::PP::decode_json(curl('/health')->body)->{features}{sse_streaming} }, 10), '10: on again';
is curl("$STREAM?query=on")->status, 200, '10: streams too';

# a page of another origin
$answer = curl("$STREAM?query=page", headers => [ Origin => 'https://app.example.com' ]);
is $answer->header('access-control-allow-origin'), 'https://app.example.com', 'a page of the origin may read it';
$answer->body;
ok $t->wait_active(0), 'all are over';

# 8: no plain text in any log
my $logs = join '', map { slurp($_) // '' } glob $t->dir . '/logs/*';
cmp_ok length $logs, '>', 10_000, '8: there are logs';
is scalar(() = $logs =~ m{GET $STREAM\?query=\[redacted\]}g) > 40, 1, '8: and requests in them';
for my $text ('I found', 'I+found', 'PMA', 'Visa', 'Halo', 'tax', 'secret plans', 'secret+plans', 'one of ten', 'one+of+ten', 'hurry', 'All at once', 'reconnect', $token) {
    is index($logs, $text), -1, '8: nothing of ' . substr $text, 0, 20;
}
$t->check;

# ENABLE_STREAMING=false in the environment
my $other = free_port();
my $off = ChatStream::Test->new(
    bare => 1, children => 2, threads => 64,
    env           => { ENABLE_STREAMING => 'false' },
    defines       => { CHAT_PORT => $other },
    server_config => "Define RAG_URL \"\${UPSTREAM}/sse?tokens=2\"\nInclude \"" . source_dir() . '/conf/examples/bali-zero.conf"',
);
is $off->request("$STREAM?query=x", port => $other)->status, 404, 'ENABLE_STREAMING=false: no stream';
is $off->request('/health', port => $other)->json->{features}{sse_streaming}, JSON::PP::false, 'health says so';
is $off->request($WHOLE, port => $other, json => { query => 'x' })->status, 200, 'the whole answer goes on';
$off->done;
