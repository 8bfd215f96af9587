#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# ChatStreamRateLimit: exactly N starts in any window whichever children they hit, and headers that are right to the second.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;
use ChatStream::Token;
use Time::HiRes qw(sleep time);

sub limits { my ($answer) = @_; return join ' ', map { $answer->header("ratelimit-$_") // '-' } qw(limit remaining reset) }

# Asks and says the status, for what is asked many times.
sub statuses
{
    my ($t, $count, @request) = @_;
    return join ' ', map { $t->request(@request)->status } 1 .. $count;
}

# ---- 200 at once -----------------------------------------------------------------------------------------------------------

# As many connections to each child, all of them accepted, and then every request at once.
sub all_at_once
{
    my ($t, $count, $path) = @_;
    my @children = $t->children;
    # httpd accepts a connection when its first bytes are there.
    my $request = ChatStream::Client::request_text(path => $path);
    my $last = substr $request, -4, 4, '';
    my @clients = map { $t->httpd->connect_to($_, sub { map { $t->open($path, raw => $request) } 1 .. $count / @children }) } @children;
    $_->send($last) for @clients;
    $_->body(20) for @clients;
    return @clients;
}

{
    my $t = ChatStream::Test->new(
        children => 4, threads => 60,
        config   => chat('/limited', 'sse?tokens=2', 'ChatStreamRateLimit 37/60') . chat('/other', 'sse?tokens=2', 'ChatStreamRateLimit 37/60'),
    );
    my @answers = all_at_once($t, 200, '/limited?message=hi');
    my %count;
    $count{ $_->status }++ for @answers;
    is_deeply(\%count, { 200 => 37, 429 => 163 }, '200 at once over 4 children: exactly 37 pass');
    is $t->upstream->count('requests'), 37, 'and ask the upstream';
    my @refused = grep { $_->status == 429 } @answers;
    is scalar(grep { $_->json->{code} ne 'rate_limited' } @refused), 0, 'each of the others is told why';
    is scalar(grep { $_->header('retry-after') !~ /^(?:5[0-9]|60)$/ } @refused), 0, 'and when to come back';
    is scalar(grep { $_->header('retry-after') != $_->header('ratelimit-reset') } @refused), 0, 'twice the same';
    is scalar(grep { limits($_) !~ /^37 0 \d+$/ } @refused), 0, 'with nothing left';
    is scalar(grep { limits($_) !~ /^37 \d+ (?:5[0-9]|60)$/ } grep { $_->status == 200 } @answers), 0, 'those that passed know their limit';
    $_->close for @answers;

    $t->graceful;
    is $t->request('/limited?message=hi')->status, 429, 'a graceful restart forgets nothing';
    my $killed = ($t->children)[0];
    $t->kill_child(KILL => $killed);
    ok wait_until(sub { !grep { $_ == $killed } $t->children }, 10), 'a child is killed';
    is $t->request('/limited?message=hi')->status, 429, 'nor does that';
    is $t->request('/other?message=hi')->status, 200, 'another location counts for itself';
    $t->check;
}

for my $setup ({ name => 'prefork', mpm => 'prefork', children => 8 }, { name => 'HTTP/2', http2 => 1, ask => { http2 => 1 }, children => 2 }) {
    my $t = ChatStream::Test->new(
        config => chat('/limited', 'sse?tokens=2', 'ChatStreamRateLimit 5/60'),
        map { exists $setup->{$_} ? ($_ => $setup->{$_}) : () } qw(mpm http2 children),
    );
    my @open = map { $t->open('/limited?message=hi', %{ $setup->{ask} || {} }) } 1 .. 16;
    my %count;
    $count{ $_->status }++ for @open;
    is_deeply(\%count, { 200 => 5, 429 => 11 }, "$setup->{name}: exactly 5 of 16 pass");
    $_->body for @open;
    $_->close for @open;
    $t->check;
}

# ---- what a client is told -------------------------------------------------------------------------------------------------

my $t = ChatStream::Test->new(children => 2, start => 0);
my $key = ChatStream::Token->new('HS256', dir => $t->dir);
my $jwt = 'ChatStreamJWTKey HS256 ' . $key->file;
$t->httpd->{config} = patient()
    . chat('/three',  'sse?tokens=2', 'ChatStreamRateLimit 3/60')
    . chat('/tokens', 'sse?tokens=2', 'ChatStreamRateLimit 9/60', $jwt, 'ChatStreamAuth required')
    . chat('/off',    'sse?tokens=2', 'ChatStreamRateLimit 9/60', 'ChatStreamEnabled Off')
    . chat('/out',    'sse?tokens=2', 'ChatStreamRateLimit 9/60', 'ChatStreamRollout 0')
    . chat('/none',   'sse?tokens=2')
    . chat('/not',    'sse?tokens=2', 'ChatStreamRateLimit off')
    . chat('/soon',   'sse?tokens=2', 'ChatStreamRateLimit 1/2')
    . chat('/exact',  'sse?tokens=2', 'ChatStreamRateLimit 3/1')
    . chat('/shared', 'sse?tokens=2', 'ChatStreamRateLimit 3/60 group=both')
    . qq(<Location "/whole">\nSetHandler chatstream-complete\nChatStreamUpstream "\${UPSTREAM}/sse?tokens=2"\nChatStreamRateLimit 3/60 group=both\n</Location>\n)
    . chat('/alone',  'sse?tokens=2', 'ChatStreamRateLimit 3/60')
    . chat('/user',   'sse?tokens=2', 'ChatStreamRateLimit 2/60', $jwt)
    . chat('/ip',     'sse?tokens=2', 'ChatStreamRateLimit 2/60 key=ip', $jwt)
    . chat('/back',   'sse?script=wait', 'ChatStreamRateLimit 2/60', 'ChatStreamMaxPerUser 1', 'ChatStreamOnDisconnect abort 0')
    . chat('/joined', 'sse?script=wait', 'ChatStreamRateLimit 2/60');
$t->start;
$t->upstream->script(wait => "token a\nwait end\ndone\n");

is limits($t->request('/three?message=hi')), '3 2 60', 'the first of three';
like limits($t->request('/three')), qr/^3 2 (?:5\d|60)$/, 'a mistake does not count, and is told the state (400)';
is $t->request('/three')->status, 400, 'it is one';
like limits($t->request('/three?message=hi', method => 'HEAD')), qr/^3 2 (?:5\d|60)$/, 'HEAD does not count';
like limits($t->request('/three', json => { message => 'hi' })), qr/^3 1 (?:5\d|60)$/, 'the second';
like limits($t->request('/three?message=hi')), qr/^3 0 (?:5\d|60)$/, 'the third';
my $refused = $t->request('/three?message=hi');
is $refused->status, 429, 'the fourth is one too many';
like limits($refused), qr/^3 0 (?:5\d|60)$/, 'and told so';
is $refused->header('retry-after'), $refused->header('ratelimit-reset'), 'and when';
is $refused->header('content-type'), 'application/problem+json', 'as a problem';
is $refused->header('cache-control'), $t->request('/three')->header('cache-control'), 'as every other';

my $unauthorized = $t->request('/tokens?message=hi');
is $unauthorized->status . ' ' . limits($unauthorized), '401 9 9 0', '401 has the headers';
is limits($t->request('/off?message=hi')), '9 9 0', '404 has them, streaming being off';
is limits($t->request('/out?message=hi')), '9 9 0', 'and for who is outside of the rollout';
my $unknown = '01900000-0000-7000-8000-000000000000';
is limits($t->request("/off?last_event_id=$unknown:1")), '9 9 0', '410 has them';
is limits($t->request("/off?stream_id=$unknown", method => 'DELETE')), '9 9 0', 'for DELETE too';
is limits($t->request('/off', method => 'PUT', body => '')), '9 9 0', '405 has them';
is limits($t->request('/none?message=hi')), '- - -', 'where there is no limit, there are none';
is limits($t->request('/not?message=hi')), '- - -', 'off is no limit';

# ---- the window ------------------------------------------------------------------------------------------------------------

for my $round (1 .. 2) {
    is $t->request('/soon?message=hi')->status, 200, "round $round: in";
    my $answer = $t->request('/soon?message=hi');
    is $answer->status, 429, "round $round: too early";
    my $wait = $answer->header('retry-after');
    like $wait, qr/^[12]$/, "round $round: $wait s";
    last if $round == 2;
    sleep $wait;    # what is tested: this long and no longer
}

# Any four starts that passed lie more than a window apart, as the client saw them.
my @passed;
my $until = time + 2.5;
while (time < $until) {
    my $sent = time;
    push @passed, [$sent, time] if $t->request('/exact?message=hi')->status == 200;
}
my @early = grep { $passed[$_][1] - $passed[ $_ - 3 ][0] < 1 } 3 .. $#passed;
is scalar @early, 0, 'never four in a second, however one asks';
cmp_ok scalar @passed, '>=', 6, 'and always three again after one (' . @passed . ')';

# ---- who is counted, and together with what --------------------------------------------------------------------------------

is statuses($t, 2, '/shared?message=hi'), '200 200', 'a group: two streams';
is statuses($t, 2, '/whole?message=hi'), '200 429', 'leave one document';
is statuses($t, 1, '/shared?message=hi'), '429', 'and no stream';
is statuses($t, 4, '/alone?message=hi'), '200 200 200 429', 'a location without a group counts alone';

my %as = map { $_ => [ Authorization => 'Bearer ' . $key->sign({ sub => $_ }) ] } qw(anna bob);
is statuses($t, 3, '/user?message=hi', headers => $as{anna}), '200 200 429', 'by user: anna has two';
is statuses($t, 3, '/user?message=hi', headers => $as{bob}), '200 200 429', 'bob too, from the same address';
is statuses($t, 3, '/user?message=hi'), '200 200 429', 'and the address itself';
is statuses($t, 3, '/user?message=hi', from => '127.0.0.2'), '200 200 429', 'another address has its own';
is statuses($t, 1, '/ip?message=hi', headers => $as{anna}), '200', 'by address: anna one';
is statuses($t, 2, '/ip?message=hi', headers => $as{bob}), '200 429', 'bob one, and that is all';
is statuses($t, 1, '/ip?message=hi', headers => $as{anna}, from => '127.0.0.2'), '200', 'anna from elsewhere';
is statuses($t, 3, '/user?message=hi', headers => [ 'X-User-Id' => 'carl', 'X-Forwarded-For' => '192.0.2.7' ]), '429 429 429',
    'what a client says about itself changes nothing';
my $expired = [ Authorization => 'Bearer ' . $key->sign({ sub => 'dora', exp => 1 }) ];
is statuses($t, 3, '/user?message=hi', headers => $expired, from => '127.0.0.3'), '401 401 401', 'who is refused for another reason';
is statuses($t, 3, '/user?message=hi', from => '127.0.0.3'), '200 200 429', 'has not started anything';

# ---- starts that did not happen --------------------------------------------------------------------------------------------

my $stream = $t->stream('/back?message=hi');
is limits($stream), '2 1 60', 'one stream';
$stream->event_of('token');
for (1 .. 3) {
    my $answer = $t->request('/back?message=hi');
    is $answer->status . ' ' . $answer->json->{code}, '429 too_many_streams', 'a second at the same time is refused by admission';
    like limits($answer), qr/^2 1 \d+$/, 'and given back';
}
my $id = $stream->header('x-stream-id');
my $again = $t->stream("/back?last_event_id=$id:0");
like limits($again), qr/^2 1 \d+$/, 'a resume does not count';
$_->close for $again, $stream;
ok $t->wait_active(0), 'the stream is over';
my $second = $t->stream('/back?message=hi');
is $second->status, 200, 'so there is one more';
$second->close;
ok $t->wait_active(0), 'which is over';
is $t->request('/back?message=hi')->json->{code}, 'rate_limited', 'and then none';

my @joined = map { $t->stream('/joined?message=hi', headers => [ 'Idempotency-Key' => 'one' ]) } 1 .. 4;
is join(' ', map { $_->status } @joined), '200 200 200 200', 'four with one Idempotency-Key are one start';
like limits($joined[3]), qr/^2 1 \d+$/, 'and one is left';
$t->upstream->signal('end');
is join(' ', map { $_->answer } @joined), 'a a a a', 'all read it';
$_->close for @joined;
$t->check;

# ---- addresses -------------------------------------------------------------------------------------------------------------

my $six = chat('/six', 'sse?tokens=2', 'ChatStreamRateLimit 2/60') . chat('/four', 'sse?tokens=2', 'ChatStreamRateLimit 1/60');
sub from { return (headers => [ 'X-Forwarded-For' => $_[0] ]) }

my $behind = ChatStream::Test->new(modules => ['remoteip'], config => "RemoteIPHeader X-Forwarded-For\nRemoteIPInternalProxy 127.0.0.1\n$six");
is $behind->request('/six?message=hi', from($_))->status, 200, "$_ is let in" for '2001:db8::1', '2001:db8::2', '2001:db8:0:1::1';
is $behind->request('/six?message=hi', from($_))->status, 429, "$_ is of the first /64, which had its two" for '2001:db8::3', '2001:DB8:0:0:ffff::1';
is $behind->request('/six?message=hi', from('2001:db8:0:1:ffff::'))->status, 200, 'the second /64 has one more';
is $behind->request('/four?message=hi', from($_))->status, 200, "$_ is itself" for '192.0.2.1', '192.0.2.2';
is $behind->request('/four?message=hi', from('192.0.2.1'))->status, 429, 'and only itself';
$behind->check;

my $plain = ChatStream::Test->new(config => $six);
is join(' ', map { $plain->request('/six?message=hi', from("2001:db8:$_\::1"))->status } 1 .. 3), '200 200 429',
    'without mod_remoteip nobody believes X-Forwarded-For';
$plain->done;
