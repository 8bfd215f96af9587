#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# conf/examples/chat.conf as a user includes it: as it is, and with token, CORS, one stream of a user and rollout by flag file.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;
use ChatStream::Token;

my $STREAM = '/api/v1/chat/stream';
my $ONBOARDING = '/api/v1/chat/onboarding-stream';
my $WHOLE = '/api/v1/chat';
my $example = 'Include "' . source_dir() . '/conf/examples/chat.conf"';
my @fixture = (bare => 1, children => 2, threads => 64, modules => ['authz_host']);

# ---- as it is --------------------------------------------------------------------------------------------------------------

my $port = free_port();
my $bare = ChatStream::Test->new(@fixture, start => 0, server_config => $example);
$bare->httpd->{defines} = { CHAT_PORT => $port, LLM_URL => $bare->upstream->url . '/sse?script=wait' };
$bare->start;
$bare->upstream->script(wait => "token a\nwait end\ndone\n");
my $stream = $bare->stream("$STREAM?message=hi", port => $port);
is $stream->event_of('token')->{json}{content}, 'a', 'nothing defined: it streams';
is $stream->header('access-control-allow-origin'), undef, 'to pages of its own';
is $bare->request("$STREAM?message=hi", port => $port)->status, 429, 'one stream at a time';
my $else = $bare->stream("$STREAM?message=hi", port => $port, from => '127.0.0.2');
is $else->status, 200, 'for each address';
$bare->upstream->signal('end');
is $_->answer, $_ == $stream ? '' : 'a', 'to its end' for $stream, $else;
my $health = $bare->request('/health', port => $port)->json;
ok $health->{features}{sse_streaming}, 'health: streaming is on';
is $health->{rollout}, 100, 'for all';
is $bare->request($WHOLE, port => $port, json => { message => 'hi' })->json->{content}, 'a', 'the whole answer';
$bare->expect_log(qr/AH00111:.*ENABLE_STREAMING/);
$bare->check;

# ---- with everything -------------------------------------------------------------------------------------------------------

my $site = free_port();
my $t = ChatStream::Test->new(@fixture, start => 0, env => { ENABLE_STREAMING => 'true' }, server_config => $example);
my $key = ChatStream::Token->new('HS256', dir => $t->dir);
my $flags = $t->dir . '/flags.json';
$t->httpd->{defines} = {
    CHAT_PORT        => $site,
    LLM_URL          => $t->upstream->url . '/sse?script=wait',
    CHAT_JWT_SECRET  => $key->file,
    CHAT_JWT_ISSUER  => 'https://www.example.com',
    CHAT_ORIGIN      => 'https://www.example.com https://app.example.com',
    CHAT_FLAG_FILE   => $flags,
};

sub write_flags
{
    my ($text) = @_;
    open my $handle, '>', "$flags.new" or die;
    print $handle $text;
    close $handle;
    rename "$flags.new", $flags or die;
    return;
}

sub token { my ($user, %more) = @_; return $key->sign({ sub => $user, iss => 'https://www.example.com', exp => time + 600, %more }) }
sub ask   { my ($path, @rest) = @_; return $t->stream($path, port => $site, @rest) }
sub in_force { my ($member, $value) = @_; return wait_until(sub { ask('/health')->json->{$member} == $value }, 10) }

write_flags('{"enabled":true,"rollout":100}');
$t->start;
$t->upstream->script(wait => "token a\nwait end\ndone\n");

# The EventSource of a page.
my @page = (headers => [ Origin => 'https://app.example.com', Accept => 'text/event-stream', 'Cache-Control' => 'no-cache' ]);
my $anna = token('anna');
my $first = ask("$STREAM?message=hi&token=$anna", @page);
is $first->status, 200, 'an EventSource with ?token=';
is $first->event_of('token')->{json}{content}, 'a', 'has its stream';
is $first->header('access-control-allow-origin'), 'https://app.example.com', 'and may read it';
is JSON::PP::decode_json(($t->upstream->requests)[-1]{body})->{user}, 'anna', 'the upstream knows the user';

my $second = ask("$STREAM?message=hi&token=$anna", @page);
is $second->status, 429, 'a second stream is refused';
is $second->json->{code}, 'too_many_streams', 'with the code';
like $second->header('retry-after'), qr/^(?:[1-9]|[1-5]\d|60)$/, 'and when to come back: within the 60 s of a stream';
is $second->header('access-control-allow-origin'), 'https://app.example.com', 'which the page may read';
is ask("$ONBOARDING?message=hi&token=$anna")->status, 429, 'wherever she asks';
my $bob = ask("$STREAM?message=hi", headers => [ Authorization => 'Bearer ' . token('bob') ]);
is $bob->status, 200, 'another user has his own';
my $id = $first->header('x-stream-id');
my $back = ask("$STREAM?last_event_id=$id:2&token=$anna", @page);
is $back->status, 200, 'coming back is no second stream';
is ask("$STREAM?last_event_id=$id:2&token=" . token('bob'))->status, 410, 'nor for anybody else';

my $none = ask("$STREAM?message=hi", @page);
is $none->status, 401, 'without a token there is nothing';
is $none->header('www-authenticate'), 'Bearer realm="localhost"', 'but a challenge';
is $none->header('access-control-allow-origin'), 'https://app.example.com', 'which the page may read';
is ask("$STREAM?message=hi&token=" . token('anna', iss => 'https://evil.example.com'))->status, 401, 'from another issuer it is none';
is ask($WHOLE, json => { message => 'hi' })->status, 401, 'nor is the whole answer for everybody';
is ask("$STREAM?message=hi&token=$anna", headers => [ Origin => 'https://evil.example.com' ])->header('access-control-allow-origin'), undef,
    'another page may not read';
my $preflight = ask($STREAM, method => 'OPTIONS', headers => [
    Origin => 'https://www.example.com', 'Access-Control-Request-Method' => 'GET', 'Access-Control-Request-Headers' => 'authorization,last-event-id',
]);
is $preflight->status, 204, 'a preflight needs no token';
is $preflight->header('access-control-allow-origin'), 'https://www.example.com', 'and is granted';

# Off in an emergency: who streams goes on, who asks takes the other endpoint.
write_flags('{"enabled":false}');
ok wait_until(sub { !ask('/health')->json->{features}{sse_streaming} }, 10), 'the flag file says off, and health too';
my $off = ask("$STREAM?message=hi&token=" . token('carl'), @page);
is $off->status . ' ' . $off->json->{code}, '404 streaming_disabled', 'no new stream';
is $off->header('access-control-allow-origin'), 'https://app.example.com', 'and the page may read why';
$t->upstream->signal('end');
is $back->answer, '', 'the stream that ran is not cut';
ok $back->complete, 'nor is its end';
is $bob->answer, 'a', 'nor is the other';
is ask($WHOLE, json => { message => 'hi', token => $anna })->json->{content}, 'a', 'the whole answer goes on';
$_->close for $first, $back, $bob;

# 5 % of the users, then half, then all; onboarding on its own.
my @users = map { "user-$_" } 1 .. 40;
sub who_is_in { my ($path) = @_; return grep { ask("$path?message=hi&token=" . token($_))->status == 200 } @users }
my %in;
for my $share (5, 50, 100) {
    write_flags(qq({"rollout":$share,"profiles":{"onboarding":{"rollout":0}}}));
    ok in_force(rollout => $share), "$share % are in force";
    my @now = who_is_in($STREAM);
    my %now = map { $_ => 1 } @now;
    is join(' ', grep { !$now{$_} } sort keys %in), '', "$share %: nobody fell out";
    %in = %now;
    diag scalar(@now) . " of 40 users at $share %";
}
is scalar(keys %in), 40, 'at the end all are in';
is scalar(who_is_in($ONBOARDING)), 0, 'and nobody in the other profile';
unlike $t->error_log . $t->access_log, qr/eyJ/, 'no log holds a token';
$t->done;
